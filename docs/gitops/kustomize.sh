kubectl apply --server-side -k deploy/operator
kubectl --namespace keelson-system rollout status deployment/keelson-operator --timeout=2m
