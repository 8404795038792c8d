//! What scripts own, summed up as blocks come, for those who keep it.

use crate::{collection, record};

record! {
    /// A number of unspent outputs, and what they are worth.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Balance {
        version 1 {
            /// In satoshis. All coins there are fit 51 bits.
            pub value: u64 as Compact,
            /// In how many unspent outputs.
            pub utxos: u64 as Compact,
        }
    }
}

impl Balance {
    /// With one more output.
    #[must_use]
    pub fn plus(self, value: u64) -> Self {
        Self { value: self.value.saturating_add(value), utxos: self.utxos.saturating_add(1) }
    }

    /// With one output less.
    #[must_use]
    pub fn minus(self, value: u64) -> Self {
        Self { value: self.value.saturating_sub(value), utxos: self.utxos.saturating_sub(1) }
    }
}

collection! {
    /// Balances by the hash of the script. A script that owns nothing has no row.
    ///
    /// Follows reorgs; the window shows a balance after any of its blocks; overwritten; spread by the key.
    pub collection ScriptTotals = "script_totals": [u8; 32] => ScriptTotal;

    /// What a script owns.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct ScriptTotal {
        version 1 {
            /// In outputs of any value.
            pub all: Balance,
            /// In outputs of 330 satoshis or more.
            pub from_330: Balance,
            /// In outputs of 1000 satoshis or more.
            pub from_1000: Balance,
        }
    }
}

/// The values from which on a node counts outputs: all, those worth spending, and those worth it at high fees.
pub const TOTAL_VALUES_MIN: [u64; 3] = [0, 330, 1000];

impl ScriptTotal {
    /// With the outputs of one value more or less.
    pub(super) fn change(&mut self, value: u64, change: fn(Balance, u64) -> Balance) {
        let balances = [&mut self.all, &mut self.from_330, &mut self.from_1000];
        for (balance, value_min) in balances.into_iter().zip(TOTAL_VALUES_MIN) {
            if value >= value_min {
                *balance = change(*balance, value);
            }
        }
    }
}
