"""What happens round a compiled program: rank check, guard, watch, plan cache."""
