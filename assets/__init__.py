"""What the package ships beside code: refiner weights (and, later, vehicles and scenarios), each with its licence."""
