"""Pure statistics of certificates: numpy and scipy only, vectorised over images and budgets."""
