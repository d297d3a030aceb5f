//! The router in front of this machine, as Linux's table of routes has it.

use std::net::Ipv4Addr;

/// Gateway of the default route with the lowest metric, from `/proc/net/route` (proc(5)); `None` if there is none.
pub fn gateway_of(table: &str) -> Option<Ipv4Addr> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (_interface, to, via, _flags) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (_refs, _uses, metric, mask) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let hex = |word: &str| u32::from_str_radix(word, 16).ok();
        // Addresses stand there as the machine holds network order.
        let via = Ipv4Addr::from(hex(via)?.to_ne_bytes());
        let is_default = hex(to)? == 0 && hex(mask)? == 0 && !via.is_unspecified();
        is_default.then_some((metric.parse::<u32>().ok()?, via))
    });
    rows.min().map(|(_, via)| via)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let row = |to: [u8; 4], via: [u8; 4], metric: u32, mask: [u8; 4]| {
            format!(
                "eth0\t{}\t{}\t0003\t0\t0\t{metric}\t{}\t0\t0\t0\n",
                hex(to),
                hex(via),
                hex(mask)
            )
        };
        let near = row([10, 0, 0, 0], [0; 4], 0, [255, 255, 255, 0]);
        let (slow, fast) = (
            row([0; 4], [10, 0, 0, 9], 600, [0; 4]),
            row([0; 4], [10, 0, 0, 1], 100, [0; 4]),
        );
        assert_eq!(
            gateway_of(&format!("{head}{near}{slow}{fast}")),
            Some([10, 0, 0, 1].into())
        );
        assert_eq!(gateway_of(&format!("{head}{near}")), None);
        assert_eq!(gateway_of("Iface\nrubbish\neth0 zz 1 2 3 4 5 6\n"), None);
        assert_eq!(gateway_of(""), None);
    }
}
