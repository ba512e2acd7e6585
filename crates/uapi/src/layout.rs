//! Structures of the uAPI, proven: each `layout!` asserts size and offsets when compiling, and keeps them for the test
//! that reads the C header.

/// A structure as we believe the kernel has it.
#[cfg(test)]
pub(crate) struct Layout {
    /// The C name, without `struct`.
    pub(crate) name: &'static str,
    /// Its size in bytes.
    pub(crate) size: usize,
    /// Its fields, in order: name and offset in bytes.
    pub(crate) fields: &'static [(&'static str, usize)],
}

/// `layout!(Ours is "theirs", 8 bytes { argsz at 0, flags at 4 })`, where the kernel is told the size; `reads` in place of
/// `is`, where it is a part of something longer.
macro_rules! layout {
    ($ours:ident is $theirs:literal, $size:literal bytes { $($field:ident at $offset:literal),* $(,)? }) => {
        crate::layout::layout!($ours reads $theirs, $size bytes { $($field at $offset),* });

        impl $ours {
            /// What goes into `argsz` or `size`.
            #[expect(clippy::cast_possible_truncation, reason = "asserted to be a few dozen bytes")]
            const SIZE: u32 = size_of::<Self>() as u32;
        }
    };
    ($ours:ident reads $theirs:literal, $size:literal bytes { $($field:ident at $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ours>() == $size);
            $(assert!(std::mem::offset_of!($ours, $field) == $offset);)*
        };

        #[cfg(test)]
        impl $ours {
            /// For the header test.
            pub(crate) const LAYOUT: crate::layout::Layout =
                crate::layout::Layout { name: $theirs, size: $size, fields: &[$((stringify!($field), $offset)),*] };
        }
    };
}
pub(crate) use layout;
