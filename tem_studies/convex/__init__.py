"""The convex laboratory: logistic regression with many simulated workers."""
