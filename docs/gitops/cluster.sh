kubectl apply -f deploy/samples/cluster.yaml
kubectl wait --for=condition=Available --timeout=5m etcdcluster/demo
