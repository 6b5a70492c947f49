"""How much memory a run needs, known before it starts: a step of the trainer's is taken on tensors without data.

In the core, since the command line and the Train node both ask; nothing here is imported by the trainer.
"""
