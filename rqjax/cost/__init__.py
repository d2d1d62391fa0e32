"""The cost of a program: its work, its compiled text, the hardware."""
