"""What a training step costs and where its time goes: every bundle, a loop as the field writes it, and the floor."""
