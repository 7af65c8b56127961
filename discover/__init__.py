"""Find what a language model can be pushed into doing, without being told what to look for."""
