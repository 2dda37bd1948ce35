"""The packs that come with the gateway, one YAML file each; `governance.compliance.pack` reads them."""
