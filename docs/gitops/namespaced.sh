helm upgrade --install keelson charts/keelson --namespace keelson-system --set 'watchNamespaces={team-a,team-b}' --wait
