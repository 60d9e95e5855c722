"""The simulated people: what each kind does, when they come, what is measured of them."""
