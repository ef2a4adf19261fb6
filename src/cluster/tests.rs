use super::binaries::major_version;

#[test]
fn the_major_version_is_read_from_every_style() {
    assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
    assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
    assert_eq!(major_version("postgres: command not found"), None);
}
