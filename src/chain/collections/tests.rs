use super::*;
use crate::value::Record;

fn utxo(value: u64) -> Utxo {
    Utxo { value, height: 7, coinbase: true, script: vec![0x51, 0xac] }
}

fn call() -> Call {
    Call {
        calldata: vec![1; 70],
        compressed: true,
        preimage: vec![2; 20],
        sender_key_hash: [3; 32],
        contract_secret: vec![4; 32],
        interaction_key: vec![5; 33],
        from: [6; 32],
        from_legacy: Some([7; 33]),
        contract: [8; 32],
        receipt: Some(vec![9; 5]),
        receipt_proofs: vec![[10; 32], [11; 32]],
    }
}

fn proposer() -> Proposer {
    Proposer {
        solution: [1; 32],
        mldsa_key: [2; 32],
        legacy_key: [3; 33],
        salt: [4; 32],
        graffiti: Some([5; 16]),
    }
}

/// The name of a record's type, its bytes, and a way from bytes to the record and back.
type Sample = (&'static str, Vec<u8>, fn(&[u8]) -> Option<Vec<u8>>);

fn samples() -> Vec<Sample> {
    fn again<T: Record>(bytes: &[u8]) -> Option<Vec<u8>> {
        T::decode_exact(bytes).ok().map(|value| value.to_bytes())
    }
    fn sample<T: Record>(value: &T) -> Sample {
        (std::any::type_name::<T>(), value.to_bytes(), again::<T>)
    }
    let opnet = OpnetBlock {
        parent_checksum: [1; 32],
        checksum_root: [2; 32],
        storage_root: [3; 32],
        receipt_root: [4; 32],
        ema: 300,
        base_gas: 1,
        gas_used: u64::MAX,
        checksum_proofs: vec![(0, vec![[5; 32]]), (1, vec![])],
    };
    let block = BlockInfo {
        hash: [1; 32],
        parent: [2; 32],
        merkle_root: [3; 32],
        version: -1,
        time: 4,
        median_time: Some(3),
        bits: 5,
        nonce: 6,
        transactions: 7,
        size_bytes: 800,
        stripped_bytes: 700,
        weight: 2900,
        opnet: Some(opnet),
    };
    let execution = Execution {
        kind: TransactionKind::Interaction,
        burned: 1,
        reward: 2,
        gas_used: 3,
        special_gas_used: 4,
        priority_fee: 5,
        revert: Some(b"why".to_vec()),
        call: Some(call()),
    };
    let transaction = StoredTransaction {
        txid: [1; 32],
        witness_hash: Some([2; 32]),
        raw: vec![3; 200],
        execution: Some(execution),
    };
    let contract = Contract {
        address: "bcrt1opcontract".into(),
        hybrid_key: [6; 65],
        bytecode: vec![0; 300],
        compressed: false,
        txid: [1; 32],
        tx_hash: [2; 32],
        deployer_key: vec![3; 33],
        deployer: [4; 32],
        seed: [5; 32],
        salt_hash: [6; 32],
        height: 9,
    };
    let epoch = Epoch {
        hash: [1; 32],
        root: [2; 32],
        start_block: 5,
        end_block: Some(9),
        difficulty: 20,
        target_hash: [3; 32],
        proposer: proposer(),
        proofs: vec![[4; 32]],
    };
    let submission = Submission {
        confirmed_at: 7,
        epoch: 1,
        start_block: 5,
        txid: [1; 32],
        hash: [2; 32],
        proposed: proposer(),
    };
    let target = TargetEpoch {
        difficulty: 20,
        legacy_key: [1; 33],
        mldsa_public_key: vec![2; 40],
        signature: vec![3; 64],
        graffiti: None,
    };
    let witness = BlockWitness {
        timestamp_ms: 1_700_000_000_000,
        signature: vec![1; 64],
        identity: None,
        public_key: Some(vec![2; 33]),
        proofs: vec![[3; 32]],
    };
    let forms = KeyForms { public_key: Some([2; 33]), p2op: Some("bcrt1op".into()), ..KeyForms::default() };
    let mldsa = MldsaKey {
        legacy_key: [1; 33],
        tweaked_key: [2; 32],
        public_key: Some(vec![3; 1312]),
        level: MldsaLevel::Level2,
        inserted: 4,
        exposed: Some(9),
    };
    let output = MempoolOutput { value: 330, script: vec![0x51], addresses: vec!["bcrt1q".into()] };
    let waiting = MempoolTransaction {
        form: MempoolForm::Psbt,
        raw: vec![1; 100],
        previous_psbt: Some([2; 32]),
        height: 3,
        first_seen_ms: 4,
        kind: TransactionKind::Generic,
        call: None,
        inputs: vec![([5; 32], 6)],
        outputs: vec![output],
    };
    vec![
        sample(&block),
        sample(&transaction),
        sample(&ContractEvent { contract: [1; 32], name: "Transferred".into(), data: vec![2; 40] }),
        sample(&utxo(330)),
        sample(&SpentUtxo { spent_at: 8, utxo: Some(utxo(1)) }),
        sample(&ScriptTotal::default()),
        sample(&Slot { value: [1; 32], height: 2, proofs: vec![[3; 32]] }),
        sample(&contract),
        sample(&epoch),
        sample(&submission),
        sample(&target),
        sample(&witness),
        sample(&forms),
        sample(&mldsa),
        sample(&waiting),
        sample(&AnyoneCanSpendOutput { classification: "anyone".into() }),
        sample(&ChainProgress { block_in_progress: 5 }),
        sample(&ReorgRecord { timestamp_ms: 6 }),
    ]
}

#[test]
fn every_record_comes_back_and_no_damage_is_taken_for_another_encoding() {
    for (name, bytes, again) in samples() {
        assert_eq!(again(&bytes).as_ref(), Some(&bytes), "{name}");
        for end in 0..bytes.len() {
            assert_eq!(again(&bytes[..end]), None, "{name} cut off at {end}");
        }
        assert_eq!(again(&[bytes.as_slice(), &[0]].concat()), None, "{name} with a byte too many");
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                // Other contents are no damage that a codec can see. A second encoding of contents would be.
                if let Some(written) = again(&damaged) {
                    assert_eq!(written, damaged, "{name}, byte {at}");
                }
            }
        }
    }
}

#[test]
fn totals_count_an_output_from_its_value_on() {
    let mut total = ScriptTotal::default();
    for value in [0, 329, 330, 999, 1000] {
        total.change(value, Balance::plus);
    }
    assert_eq!(total.all, Balance { value: 2658, utxos: 5 });
    assert_eq!(total.from_330, Balance { value: 2329, utxos: 3 });
    assert_eq!(total.from_1000, Balance { value: 1000, utxos: 1 });
    for value in [1000, 0, 329, 330, 999] {
        total.change(value, Balance::minus);
    }
    assert_eq!(total, ScriptTotal::default());
}

#[test]
fn a_witness_without_identity_is_known_by_its_signature() {
    let witness = BlockWitness {
        timestamp_ms: 0,
        signature: b"abc".to_vec(),
        identity: None,
        public_key: None,
        proofs: Vec::new(),
    };
    // The SHA-256 of "abc" (FIPS 180-2).
    assert_eq!(witness.id()[..4], [0xba, 0x78, 0x16, 0xbf]);
    assert_eq!(BlockWitness { identity: Some([1; 32]), ..witness }.id(), [1; 32]);
}
