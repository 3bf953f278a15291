//! Images from registries and from media: who may be asked, what is kept, who vouches for it. What reaches the network
//! (`pull`) is a process of its own that is not trusted: the agent checks digests and signatures itself.

/// OCI images as archives.
pub mod archive;
/// Which registries this host may ask, and whose signatures it wants.
pub mod policy;
/// What is kept on the data partition.
pub mod store;
/// What the agent wants fetched, and how far that is.
pub mod wanted;
