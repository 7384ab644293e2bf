"""What the container and its workers use of memory and CPU, and what follows from it."""
