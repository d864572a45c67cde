pytest_plugins = ["support_cluster_fixtures"]
