"""The processes between supervisor and worker: the zygote that imports the adapter, and the keeper of each worker."""
