//! Kernels that a compiler makes vectors of.

/// Defines a function that is compiled for each set of instructions. `$body` is generic over whether a product with a sum is
/// one instruction, and is `#[inline(always)]`: it becomes part of the function that has the instructions.
macro_rules! for_each_isa {
    ($(#[$attribute:meta])* pub fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$attribute])*
        pub fn $name(isa: $crate::Isa, $($argument: $type),*) {
            struct Call<T>(T);

            impl $crate::isa::Work for Call<($($type,)*)> {
                type Result = ();

                #[inline(always)]
                fn run<L: $crate::lanes::Lanes, const ROWS: usize, const VECTORS: usize>(self, _lanes: L) {
                    let ($($argument,)*) = self.0;
                    if L::FUSES { $body::<true>($($argument),*) } else { $body::<false>($($argument),*) }
                }
            }

            isa.run(Call(($($argument,)*)));
        }
    };
}
pub(crate) use for_each_isa;
