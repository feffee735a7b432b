"""Training of the attacks that need it: universal perturbations, and networks that perturb."""
