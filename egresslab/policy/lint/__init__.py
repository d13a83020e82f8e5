"""What will not work, or not as meant, found in manifests before they are applied."""
