helm uninstall keelson --namespace keelson-system --wait
kubectl get etcdclusters --all-namespaces
