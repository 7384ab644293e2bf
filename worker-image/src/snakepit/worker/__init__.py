"""The worker process: runs one adapter, holds its sessions, answers calls. It knows nothing of starting processes."""
