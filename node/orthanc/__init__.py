"""Orthanc beside the node: a client of its REST API, and what follows its changes."""
