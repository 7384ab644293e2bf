"""The bridge: the framed protocol between workers, their supervisor and the router (docs/bridge.md)."""
