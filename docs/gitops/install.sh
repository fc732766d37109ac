helm install keelson charts/keelson --namespace keelson-system --create-namespace --wait
helm test keelson --namespace keelson-system
