"""The metrics of a task on the user's own data: of a bundle on any provider, of a checkpoint in torch, of any graph."""
