//! Images from registries and from media: who may be asked, what is kept, who vouches for it. What
//! reaches the network (`pull`) is a process of its own that is not trusted: the agent checks
//! digests and signatures itself.

/// OCI images as archives.
pub mod archive;
/// Policy of images: allowed registries and required signatures.
pub mod policy;
/// Image store on the data partition.
pub mod store;
/// Wanted images and the progress of their fetches.
pub mod wanted;
