"""The running node: command line, service, worker and web face."""
