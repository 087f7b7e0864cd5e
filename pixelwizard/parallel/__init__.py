"""How ranks share a job: the mesh, sequence and guidance parallelism, spatial decode."""
