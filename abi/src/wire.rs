//! Macros to declare a fixed layout once and to encode, decode and size-check it from that
//! declaration. Independent of any one protocol.

use thiserror::Error;

/// Why bytes are not the message they were taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end before the layout does.
    #[error("{what}: {got} bytes where the format has {need}")]
    Length {
        /// The message or packet.
        what: &'static str,
        /// Bytes the format has.
        need: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The first byte names no message of the protocol.
    #[error("{protocol}: no message has type 0x{kind:02x}")]
    Kind {
        /// Name of the protocol.
        protocol: &'static str,
        /// The byte that came.
        kind: u8,
    },
    /// A field holds a value that its type does not have.
    #[error("{what}: field {field} holds a value that the format does not have")]
    Value {
        /// The message or packet.
        what: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}

/// A value with a fixed number of bytes on the wire.
pub trait Field: Sized {
    /// Bytes on the wire.
    const LEN: usize;
    /// Reads the value from exactly [`Self::LEN`] bytes; `None` if they hold no value of the type.
    fn get(bytes: &[u8]) -> Option<Self>;
    /// Writes the value into exactly [`Self::LEN`] bytes.
    fn put(&self, bytes: &mut [u8]);
}

/// The bytes of a layout `M`, as long as it is, whose fields are read when they are asked for. Made
/// by the layout's `raw`.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a, M, const LEN: usize> {
    /// Bytes of the layout.
    pub(crate) bytes: &'a [u8; LEN],
    pub(crate) layout: std::marker::PhantomData<M>,
}

/// Whether two names are equal, for offsets that are computed at compile time.
pub(crate) const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

macro_rules! big_endian {
    ($($int:ty),*) => {$(
        impl Field for $int {
            const LEN: usize = size_of::<$int>();
            #[inline(always)]
            fn get(bytes: &[u8]) -> Option<Self> {
                Some(<$int>::from_be_bytes(bytes.try_into().ok()?))
            }
            #[inline(always)]
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_be_bytes());
            }
        }
    )*};
}
big_endian!(u8, u16, u32, u64, i32);

/// Declares fixed layouts: fields in wire order, with the length that the specification states.
///
/// Offsets are computed from the field types; a sum that differs from the stated length does not
/// compile. A layout with a type byte (`= b'A'`) counts that byte as offset 0.
#[macro_export]
macro_rules! layout {
    ($(
        $(#[$meta:meta])*
        $name:ident $(= $kind:literal)?, $len:literal { $($field:ident: $ty:ty),* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $(
                #[doc = concat!("`", stringify!($field), "`, as the specification names it.")]
                pub $field: $ty,
            )*
        }

        impl $name {
            /// Bytes on the wire, the type byte included.
            pub const LEN: usize = $len;
            $(
                /// The type byte.
                pub const KIND: u8 = $kind;
            )?

            const HEAD: usize = 0 $(+ { let _ = $kind; 1 })?;

            /// Writes the layout into exactly [`Self::LEN`] bytes.
            #[inline]
            pub fn encode(&self, out: &mut [u8; $len]) {
                $( out[0] = $kind; )?
                let _at = Self::HEAD;
                $(
                    $crate::wire::Field::put(
                        &self.$field,
                        &mut out[_at.._at + <$ty as $crate::wire::Field>::LEN],
                    );
                    let _at = _at + <$ty as $crate::wire::Field>::LEN;
                )*
            }

            /// The layout as bytes of its own.
            #[inline]
            pub fn to_bytes(&self) -> [u8; $len] {
                let mut out = [0; $len];
                self.encode(&mut out);
                out
            }

            /// Reads the layout from its first [`Self::LEN`] bytes; the type byte is the caller's.
            ///
            /// # Errors
            /// [`WireError::Length`] if bytes are missing, [`WireError::Value`] if a field has no
            /// such value.
            #[inline]
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::wire::WireError> {
                #[allow(unused_imports, reason = "a layout may have no fields")]
                use $crate::wire::{Field, WireError};
                let Some(_bytes) = bytes.first_chunk::<$len>() else {
                    return Err(WireError::Length { what: stringify!($name), need: $len, got: bytes.len() });
                };
                let _at = Self::HEAD;
                $(
                    let Some($field) = <$ty as Field>::get(&_bytes[_at.._at + <$ty as Field>::LEN]) else {
                        return Err(WireError::Value { what: stringify!($name), field: stringify!($field) });
                    };
                    let _at = _at + <$ty as Field>::LEN;
                )*
                Ok($name { $($field),* })
            }
        }

        impl $name {
            /// The bytes as this layout, if there are exactly as many; the type byte is the
            /// caller's.
            #[inline(always)]
            pub fn raw(bytes: &[u8]) -> Option<$crate::wire::Raw<'_, Self, $len>> {
                let bytes = bytes.try_into().ok()?;
                Some($crate::wire::Raw { bytes, layout: std::marker::PhantomData })
            }

            #[allow(dead_code, reason = "a layout may have no fields")]
            const fn offset_of(_field: &str) -> usize {
                let _at = Self::HEAD;
                $(
                    if $crate::wire::is_same(_field, stringify!($field)) {
                        return _at;
                    }
                    let _at = _at + <$ty as $crate::wire::Field>::LEN;
                )*
                panic!("the layout has no such field")
            }
        }

        impl $crate::wire::Raw<'_, $name, $len> {
            $(
                #[doc = concat!("Reads `", stringify!($field), "`; `None` if it holds no value of its type.")]
                #[inline(always)]
                pub fn $field(self) -> Option<$ty> {
                    const AT: usize = $name::offset_of(stringify!($field));
                    const END: usize = AT + <$ty as $crate::wire::Field>::LEN;
                    <$ty as $crate::wire::Field>::get(&self.bytes[AT..END])
                }
            )*
        }

        const _: () = assert!(
            $name::HEAD $(+ <$ty as $crate::wire::Field>::LEN)* == $len,
            concat!(stringify!($name), ": the fields do not add up to the specified length"),
        );
    )*};
}

/// Declares the enum over all messages of a protocol, told apart by their first byte.
#[macro_export]
macro_rules! messages {
    ($(#[$meta:meta])* $name:ident, $protocol:literal: $($message:ident),* $(,)?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(
                #[doc = concat!("See [`", stringify!($message), "`].")]
                $message($message),
            )*
        }

        impl $name {
            /// The length of the longest message's fixed part.
            pub const LEN_MAX: usize = {
                let mut max = 0;
                $( if $message::LEN > max { max = $message::LEN; } )*
                max
            };

            /// Every type byte with its length, in the order of the specification.
            pub const KINDS: &[(u8, usize)] = &[$(($message::KIND, $message::LEN)),*];

            /// Bytes of this message's fixed part.
            #[inline]
            pub fn encoded_len(&self) -> usize {
                match self { $( Self::$message(_) => $message::LEN, )* }
            }

            /// Appends the message's fixed part to `out`.
            pub fn encode_to(&self, out: &mut Vec<u8>) {
                match self { $( Self::$message(message) => out.extend_from_slice(&message.to_bytes()), )* }
            }

            /// Reads the fixed part of the message that `bytes` start with.
            ///
            /// # Errors
            /// [`WireError`] names the message and what is wrong with it; nothing past `bytes` is
            /// read.
            #[inline]
            pub fn decode_prefix(bytes: &[u8]) -> Result<Self, $crate::wire::WireError> {
                use $crate::wire::WireError;
                match bytes.first() {
                    $( Some(&$message::KIND) => Ok(Self::$message($message::decode(bytes)?)), )*
                    Some(&kind) => Err(WireError::Kind { protocol: $protocol, kind }),
                    None => Err(WireError::Length { what: $protocol, need: 1, got: 0 }),
                }
            }
        }
    };
}

/// Declares a one-byte code whose values the specification lists.
#[macro_export]
macro_rules! code {
    ($($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $value:ident = $byte:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $( $(#[$vmeta])* $value = $byte, )*
        }

        impl $crate::wire::Field for $name {
            const LEN: usize = 1;
            #[inline(always)]
            fn get(bytes: &[u8]) -> Option<Self> {
                match bytes.first() {
                    $( Some($byte) => Some(Self::$value), )*
                    _ => None,
                }
            }
            #[inline(always)]
            fn put(&self, bytes: &mut [u8]) {
                bytes[0] = *self as u8;
            }
        }
    )*};
}
