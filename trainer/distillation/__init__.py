"""Knowledge distillation: the networks that teach, and the loss that compares a student with them."""
