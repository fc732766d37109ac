kubectl apply --server-side -k crds
helm install keelson charts/keelson --namespace keelson-system --create-namespace --take-ownership --wait
