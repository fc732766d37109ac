keelson-server backup fetch s3://backups/etcd/ns/demo/demo-first-1b2c3d4e.db.zst snapshot.db
etcdutl snapshot restore snapshot.db --data-dir data
