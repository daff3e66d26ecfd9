"""What the worker may hold: caches, where large pieces lie, and what is done when there is too little."""
