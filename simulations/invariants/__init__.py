"""What must hold, each rule a small function with its sentence, checked by an observer that nodes can't see."""
