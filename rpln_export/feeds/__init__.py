"""What graphs are fed, beside the stress set: texts and workloads."""
