"""What is exported and how: frozen plans, made from what the user asked for and checked before any work."""
