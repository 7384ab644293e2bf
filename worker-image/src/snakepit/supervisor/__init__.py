"""PID 1 of the worker container: starts, watches, replaces and ends workers. It never imports user code itself."""
