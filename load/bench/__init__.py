"""Servers compared with each other and with the bare engine: one workload, one client, one table."""
