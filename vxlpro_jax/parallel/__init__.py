"""Names of axes, meshes, and the layout of arrays over devices."""
