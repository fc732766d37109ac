helm upgrade keelson charts/keelson --namespace keelson-system --reset-then-reuse-values --set replicas=2 --wait
