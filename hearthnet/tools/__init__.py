"""Files for programs that others make: lnav, Prometheus, Grafana, Datasette."""
