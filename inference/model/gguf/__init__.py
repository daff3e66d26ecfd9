"""GGUF files, as llama.cpp has them, turned into Hugging Face folders."""
