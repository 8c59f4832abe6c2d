"""What happens when processes are killed, frozen, or race each other; and when connections break."""
