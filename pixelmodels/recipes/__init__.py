"""What is trained: recipes and suites as data, without Ray and MLflow."""
