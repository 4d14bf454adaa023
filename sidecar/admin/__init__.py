"""The admin API: what operators, scrapers and `sidecar status` talk to."""
