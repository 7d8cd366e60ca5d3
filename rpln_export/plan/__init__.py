"""What is exported and how: frozen plans, made from what the user asked for and checked before any work.

A plan that exists can be carried out, as far as configurations and options tell. What can only be found out later, and
raises a PlanError or a DestinationError then:

- whether the checkpoint has weights for the task's head, weights that have no place in the network, and two tables
  where the config says one, and whether those of a Dense of sentence-transformers fit: only the weights tell
  (rpln_export.checkpoint.model, unexpected, ties and sentences);
- whether the tokenizer has a mask token, fits the vocabulary, and can be written into a graph: only the tokenizer
  tells, which may have to be fetched first (rpln_export.checkpoint.tokenizer, byte_pairs and planned_graphs);
- whether the destination can be written and has room: that depends on the moment and on the size of the weights
  (rpln_export.destination).

A checkpoint of fairseq or DinkyTrain is converted before there is a plan (rpln_export.checkpoint.conversion).
"""
