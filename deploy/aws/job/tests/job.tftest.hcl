# terraform test: what is computed, without AWS.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }

  mock_resource "aws_msk_cluster" {
    defaults = {
      arn                          = "arn:aws:kafka:us-east-1:123456789012:cluster/highwater/0"
      bootstrap_brokers_sasl_scram = "b-1.example:9096,b-2.example:9096,b-3.example:9096"
    }
  }

  mock_resource "aws_secretsmanager_secret" {
    defaults = {
      arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mock"
    }
  }

  mock_resource "aws_kms_key" {
    defaults = {
      arn = "arn:aws:kms:us-east-1:123456789012:key/mock"
    }
  }

  mock_resource "aws_msk_configuration" {
    defaults = {
      arn             = "arn:aws:kafka:us-east-1:123456789012:configuration/mock/0"
      latest_revision = 1
    }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = {
      arn = "arn:aws:logs:us-east-1:123456789012:log-group:/highwater/cars"
    }
  }

  mock_resource "aws_launch_template" {
    defaults = {
      id             = "lt-0123456789abcdef0"
      latest_version = 1
    }
  }
}

variables {
  bucket         = "highwater-test"
  image          = "123456789012.dkr.ecr.us-east-1.amazonaws.com/highwater@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  kafka_password = "not-for-anybody-else"
  cluster_secret = "fedcba9876543210"
  processes      = 3
}

run "each_process_has_a_name_and_a_number" {
  assert {
    condition     = output.hostfile == "p0.cars.highwater.internal:2101\np1.cars.highwater.internal:2101\np2.cars.highwater.internal:2101\n"
    error_message = "The hostfile has a line for each process, in their order: ${output.hostfile}"
  }

  assert {
    condition     = length(aws_instance.process) == 3 && join("", [for record in aws_route53_record.process : "${record.name}:2101\n"]) == output.hostfile
    error_message = "Each line of the hostfile is a name that resolves."
  }

  assert {
    condition = alltrue([for i, text in local.user_data : strcontains(
      one([for file in yamldecode(text).write_files : file.content if file.path == "/etc/highwater/env"]),
      "HIGHWATER_PROCESS=${i}\n"
    )])
    error_message = "Each host knows its number."
  }

  assert {
    condition = alltrue([for text in local.user_data :
      one([for file in yamldecode(text).write_files : file.content if file.path == "/etc/highwater/hosts"]) == output.hostfile &&
      strcontains(one([for file in yamldecode(text).write_files : file.content if file.path == "/etc/highwater/env"]), "HIGHWATER_PROCESSES=3\n")
    ])
    error_message = "All hosts have the same hostfile, and know how many they are."
  }

  assert {
    condition     = length(toset(aws_instance.process[*].subnet_id)) == 1
    error_message = "All processes are in one zone."
  }
}

run "no_secret_is_where_others_look" {
  assert {
    condition     = !anytrue([for text in local.user_data : strcontains(text, "not-for-anybody-else") || strcontains(text, "fedcba9876543210")])
    error_message = "User data can be read by whoever may describe instances."
  }

  assert {
    condition     = !strcontains(aws_s3_object.config.content, "fedcba9876543210") && strcontains(aws_s3_object.config.content, "\"sasl.password\" = \"@/run/secrets/")
    error_message = "The configuration names files with secrets, and holds none."
  }

  assert {
    condition     = aws_secretsmanager_secret_version.kafka.secret_string == null && aws_secretsmanager_secret_version.cluster.secret_string == null
    error_message = "Secrets are write-only: they would be in the state otherwise."
  }

  assert {
    condition     = startswith(aws_secretsmanager_secret.kafka.name, "AmazonMSK_")
    error_message = "MSK refuses secrets with other names."
  }
}

run "hosts_may_do_what_they_need" {
  assert {
    condition = alltrue([for statement in jsondecode(aws_iam_role_policy.host.policy).Statement :
      statement.Resource != ["*"] || contains(["login", "manage"], statement.Sid)
    ])
    error_message = "Only what takes no resource may be allowed for all of them."
  }

  assert {
    condition = alltrue([for statement in jsondecode(aws_iam_role_policy.host.policy).Statement :
      !anytrue([for action in statement.Action : strcontains(action, "*")])
    ])
    error_message = "Actions are listed one by one."
  }

  assert {
    condition = (
      local.statements.write.Resource == ["arn:aws:s3:::highwater-test/state/cars/*", "arn:aws:s3:::highwater-test/output/cars/*"] &&
      !contains(local.statements.read.Action, "s3:PutObject")
    )
    error_message = "A job writes its own state and results, and no tables."
  }

  assert {
    condition     = local.statements.pull.Resource == ["arn:aws:ecr:us-east-1:123456789012:repository/highwater"]
    error_message = "A host pulls from the repository of its image: ${local.statements.pull.Resource[0]}"
  }
}

run "nobody_calls_from_outside" {
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.peers.cidr_ipv4 == null &&
      aws_vpc_security_group_ingress_rule.kafka.cidr_ipv4 == null &&
      aws_vpc_security_group_ingress_rule.peers.referenced_security_group_id == aws_security_group.processes.id &&
      aws_vpc_security_group_ingress_rule.kafka.referenced_security_group_id == aws_security_group.processes.id
    )
    error_message = "Ports are open to the processes only."
  }

  assert {
    condition = (
      aws_msk_cluster.this.encryption_info[0].encryption_in_transit[0].client_broker == "TLS" &&
      !aws_msk_cluster.this.client_authentication[0].unauthenticated &&
      aws_vpc_security_group_ingress_rule.kafka.from_port == 9096
    )
    error_message = "Clients of Kafka log in, over TLS."
  }

  assert {
    condition     = alltrue([for instance in aws_instance.process : instance.metadata_options[0].http_tokens == "required"])
    error_message = "Credentials of a host need a token."
  }
}

run "subnets_do_not_overlap" {
  assert {
    condition = (
      length(distinct(concat([for subnet in aws_subnet.private : subnet.cidr_block], [aws_subnet.public.cidr_block]))) == 4 &&
      length(distinct([for subnet in aws_subnet.private : subnet.availability_zone])) == 3
    )
    error_message = "Four subnets, the private ones in three zones."
  }
}

run "the_configuration_names_brokers_and_places" {
  assert {
    condition = alltrue([for text in [
      "from = \"kafka://b-1.example:9096,b-2.example:9096,b-3.example:9096/sensors-sample\"",
      "state = \"s3://highwater-test/state/cars\"",
      "workers = 2\n",
    ] : strcontains(aws_s3_object.config.content, text)])
    error_message = aws_s3_object.config.content
  }
}

run "an_exit_for_good_is_not_repeated" {
  assert {
    condition = (
      strcontains(local.files["/etc/systemd/system/highwater.service"].text, "\nRestartPreventExitStatus=2 4\n") &&
      strcontains(local.files["/etc/systemd/system/highwater.service"].text, "\nRestart=on-failure\n")
    )
    error_message = "A run that another one has superseded must not start again."
  }
}

run "a_tag_is_no_build" {
  command = plan

  variables {
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/highwater:latest"
  }

  expect_failures = [var.image]
}

run "too_many_processes" {
  command = plan

  variables {
    processes = 17
  }

  expect_failures = [var.processes]
}

run "two_zones_are_too_few" {
  command = plan

  variables {
    zones = ["a", "b", "a"]
  }

  expect_failures = [var.zones]
}

run "the_image_does_not_run_on_graviton" {
  command = plan

  variables {
    instance_type = "c7gd.large"
  }

  expect_failures = [var.instance_type]
}

run "secrets_are_long_enough" {
  command = plan

  variables {
    kafka_password = "short"
    cluster_secret = "short"
  }

  expect_failures = [var.kafka_password, var.cluster_secret]
}

run "there_is_a_configuration_for_the_pipeline" {
  command = plan

  variables {
    pipeline = "nexmark"
  }

  expect_failures = [var.pipeline]
}
