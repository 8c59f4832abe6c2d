"""What tests share: servers, registries, and checks that do not trust the code under test."""
