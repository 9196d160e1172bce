//! Claims about the options: what is written is read back, and contradictions are refused.

use super::*;

#[test]
fn names_are_read_back() {
    for preset in Preset::ALL {
        assert_eq!(preset.name().parse(), Ok(preset));
        assert_eq!(preset.config().validate(), Ok(()));
    }
    assert_eq!("cone".parse(), Ok(Preset::PortRestricted));
    let error = "cones".parse::<Preset>().expect_err("no such NAT");
    assert!(error.to_string().contains("full-cone"), "{error}");
    for behavior in Behavior::ALL {
        assert_eq!(behavior.name().parse(), Ok(behavior));
        assert_eq!(behavior.short().parse(), Ok(behavior));
    }
    for allocation in Allocation::ALL {
        assert_eq!(allocation.name().parse(), Ok(allocation));
    }
}

#[test]
fn files_say_the_axes_in_words() {
    let text = "
        mapping = 'address-dependent'
        hairpin = 'external-source'
        [ports]
        allocation = 'sequential'
        step = -2
        [timers]
        udp = { unreplied = '15s', replied = '2m' }
        lifetime = '50s'
        [limits]
        sessions = 2048
        overflow = 'evict-oldest'
    ";
    let config: NatConfig = toml::from_str(text).expect("a good file");
    assert_eq!(config.mapping, Behavior::AddressDependent);
    assert_eq!(config.timers.udp, IdleTimers::seconds(15, 120));
    assert_eq!(config.timers.lifetime, Some(Duration::from_secs(50)));
    assert_eq!((config.ports.step, config.limits.sessions), (-2, 2048));
    let written = toml::to_string(&config).expect("writable");
    assert_eq!(toml::from_str(&written), Ok(config));
    let error = toml::from_str::<NatConfig>("mapping = 'cone'").expect_err("no such mapping");
    assert!(
        error.to_string().contains("endpoint-independent"),
        "{error}"
    );
}

#[test]
fn contradictions_are_refused() {
    type Change = fn(&mut NatConfig);
    let cases: [(Change, NatConfigError); 16] = [
        (|c| c.ports.first = 0, NatConfigError::PortRange(0, 65535)),
        (|c| c.ports.step = 0, NatConfigError::Step),
        (
            |c| c.ports.background = -1.0,
            NatConfigError::BackgroundRate,
        ),
        (|c| c.ports.background = 1.0, NatConfigError::Background),
        (
            |c| {
                c.ports.block = Some(PortBlock {
                    size: 0,
                    per_host: 1,
                });
            },
            NatConfigError::Block,
        ),
        (|c| c.ports.overloading = true, NatConfigError::Overloading),
        (
            |c| (c.ports.parity, c.ports.first) = (true, 65535),
            NatConfigError::Parity,
        ),
        (|c| c.limits.sessions = 0, NatConfigError::Limit),
        (|c| c.limits.new_per_second = Some(0), NatConfigError::Limit),
        (
            |c| c.timers.lifetime = Some(Duration::ZERO),
            NatConfigError::Timer,
        ),
        (
            |c| c.unsolicited = Unsolicited::BlockSource(Duration::ZERO),
            NatConfigError::Timer,
        ),
        (
            |c| c.timers.filter = Some(Duration::from_secs(1)),
            NatConfigError::FilterTimer,
        ),
        (|c| c.reuse_inbound = true, NatConfigError::ReuseInbound),
        (
            |c| (c.mapping, c.hairpin) = (Behavior::None, Hairpin::InternalSource),
            NatConfigError::Hairpin,
        ),
        (
            |c| (c.mapping, c.unsolicited) = (Behavior::None, Unsolicited::Poison),
            NatConfigError::NeedsMapping,
        ),
        (
            |c| {
                c.mapping = Behavior::AddressDependent;
                c.quirks.dual_mapping_after = Some(Duration::from_secs(1));
            },
            NatConfigError::DualMapping,
        ),
    ];
    for (change, error) in cases {
        let mut config = NatConfig::default();
        change(&mut config);
        assert_eq!(config.validate(), Err(error));
        assert!(!error.option().is_empty() && error.to_string().lines().count() == 1);
    }
}

#[test]
fn what_has_a_time_says_it_in_the_value() {
    let text = "unsolicited = { block-source = '10s' }\nnat64 = '64:ff9b::/96'\n[quirks]\ndual-mapping-after = '1m'\n[ports.block]\nsize = 512";
    let config: NatConfig = toml::from_str(text).expect("a good file");
    assert_eq!(
        config.unsolicited,
        Unsolicited::BlockSource(Duration::from_secs(10))
    );
    assert_eq!(config.ports.block.map(|block| block.per_host), Some(1));
    let written = toml::to_string(&config).expect("writable");
    assert_eq!(toml::from_str(&written), Ok(config));
}
