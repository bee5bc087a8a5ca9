# The public headers' comments are plain.  This marks them for Doxygen: what stands at the begin of a line documents what
# follows, what stands behind code documents that, and the first comment the file.  Titles of sections document nothing.
1s|^/\*|/** @file\n *|
/^\/\* ----/b
s|^\( *\)/\* |\1/** |
s|\([^ ] *\) /\* |\1 /**< |
